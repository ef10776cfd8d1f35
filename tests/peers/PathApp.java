import java.io.IOException;
import java.nio.file.Files;

import jakarta.servlet.http.HttpServlet;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import org.apache.catalina.connector.Connector;
import org.apache.catalina.startup.Tomcat;

/**
 * Apache Tomcat, which reads encoded slashes and backslashes as separators, with a Latin-1 or UTF-8 decoder.
 *
 * <p>Listens on a free port of 127.0.0.1 and prints {@code ready URL}. The answer to a request for {@code /admin}, or
 * for a path below {@code /admin}, is {@code admin}. The answer to every other request is {@code other}. The argument
 * is the encoding of paths.
 */
public class PathApp {
    public static void main(String[] arguments) throws Exception {
        var tomcat = new Tomcat();
        tomcat.setBaseDir(Files.createTempDirectory("paths").toString());
        var connector = new Connector();
        connector.setPort(0);
        connector.setProperty("address", "127.0.0.1");
        connector.setProperty("relaxedPathChars", "\\|\"<>[]^`{}");
        connector.setEncodedSolidusHandling("decode");
        connector.setAllowBackslash(true);
        connector.setURIEncoding(arguments[0]);
        tomcat.setConnector(connector);
        var context = tomcat.addContext("", null);
        add(tomcat, context, "admin", "/admin/*");
        add(tomcat, context, "other", "/");
        tomcat.start();
        System.out.println("ready http://127.0.0.1:" + connector.getLocalPort());
        System.out.flush();
        tomcat.getServer().await();
    }

    private static void add(Tomcat tomcat, org.apache.catalina.Context context, String text, String pattern) {
        Tomcat.addServlet(context, text, new HttpServlet() {
            @Override
            protected void doGet(HttpServletRequest request, HttpServletResponse response) throws IOException {
                response.getWriter().write(text);
            }
        });
        context.addServletMappingDecoded(pattern, text);
    }
}
