import java.security.KeyPairGenerator;
import java.security.interfaces.RSAPrivateKey;
import java.security.interfaces.RSAPublicKey;
import java.time.Duration;
import java.util.List;
import java.util.Map;

import com.nimbusds.jose.jwk.JWKSet;
import com.nimbusds.jose.jwk.RSAKey;
import com.nimbusds.jose.jwk.source.ImmutableJWKSet;
import com.nimbusds.jose.jwk.source.JWKSource;
import com.nimbusds.jose.proc.SecurityContext;

import org.springframework.boot.SpringApplication;
import org.springframework.boot.autoconfigure.EnableAutoConfiguration;
import org.springframework.boot.web.context.WebServerInitializedEvent;
import org.springframework.context.ApplicationListener;
import org.springframework.context.annotation.Bean;
import org.springframework.context.annotation.Configuration;
import org.springframework.security.core.userdetails.User;
import org.springframework.security.core.userdetails.UserDetailsService;
import org.springframework.security.oauth2.core.AuthorizationGrantType;
import org.springframework.security.oauth2.core.ClientAuthenticationMethod;
import org.springframework.security.oauth2.core.oidc.endpoint.OidcParameterNames;
import org.springframework.security.oauth2.server.authorization.client.InMemoryRegisteredClientRepository;
import org.springframework.security.oauth2.server.authorization.client.RegisteredClient;
import org.springframework.security.oauth2.server.authorization.client.RegisteredClientRepository;
import org.springframework.security.oauth2.server.authorization.settings.ClientSettings;
import org.springframework.security.oauth2.server.authorization.settings.TokenSettings;
import org.springframework.security.oauth2.server.authorization.token.JwtEncodingContext;
import org.springframework.security.oauth2.server.authorization.token.OAuth2TokenCustomizer;
import org.springframework.security.provisioning.InMemoryUserDetailsManager;

/**
 * Spring Authorization Server as an OpenID Provider.
 *
 * <p>Listens on a free port of 127.0.0.1 and prints {@code ready ISSUER}. User alice with the password
 * alice-password; the clients {@code basic} (with the secret {@code secret-basic}), {@code post} (with the secret
 * {@code secret-post}) and {@code public}. Access tokens live for ACCESS_TTL seconds, where the environment has that. A
 * refresh replaces the refresh token.
 */
@Configuration
@EnableAutoConfiguration
public class SpringProvider {
    private static final String REDIRECT_URI = "http://localhost/oauth2/callback";

    public static void main(String[] arguments) {
        var application = new SpringApplication(SpringProvider.class);
        application.setDefaultProperties(Map.of(
                "server.address", "127.0.0.1",
                "server.port", "0",
                "spring.main.banner-mode", "off",
                "logging.level.root", "error"));
        application.addListeners((ApplicationListener<WebServerInitializedEvent>) event -> {
            System.out.println("ready http://127.0.0.1:" + event.getWebServer().getPort());
            System.out.flush();
        });
        application.run(arguments);
    }

    @Bean
    UserDetailsService users() {
        return new InMemoryUserDetailsManager(
                User.withUsername("alice").password("{noop}alice-password").roles("USER").build());
    }

    @Bean
    RegisteredClientRepository clients() {
        return new InMemoryRegisteredClientRepository(
                client("basic", ClientAuthenticationMethod.CLIENT_SECRET_BASIC),
                client("post", ClientAuthenticationMethod.CLIENT_SECRET_POST),
                client("public", ClientAuthenticationMethod.NONE));
    }

    private static RegisteredClient client(String name, ClientAuthenticationMethod method) {
        var life = System.getenv().getOrDefault("ACCESS_TTL", "3600");
        var client = RegisteredClient.withId(name)
                .clientId(name)
                .clientAuthenticationMethod(method)
                .authorizationGrantType(AuthorizationGrantType.AUTHORIZATION_CODE)
                .authorizationGrantType(AuthorizationGrantType.REFRESH_TOKEN)
                .redirectUri(REDIRECT_URI)
                .scopes(scopes -> scopes.addAll(List.of("openid", "profile", "email")))
                .clientSettings(ClientSettings.builder().requireProofKey(true).build())
                .tokenSettings(TokenSettings.builder()
                        .accessTokenTimeToLive(Duration.ofSeconds(Long.parseLong(life)))
                        .reuseRefreshTokens(false)
                        .build());
        if (method != ClientAuthenticationMethod.NONE) {
            client.clientSecret("{noop}secret-" + name);
        }
        return client.build();
    }

    /** By default, an ID token of this server has no claims about the user except {@code sub}. */
    @Bean
    OAuth2TokenCustomizer<JwtEncodingContext> claims() {
        return context -> {
            if (OidcParameterNames.ID_TOKEN.equals(context.getTokenType().getValue())) {
                context.getClaims()
                        .claim("email", context.getPrincipal().getName() + "@example.test")
                        .claim("email_verified", true)
                        .claim("groups", List.of("staff"));
            }
        };
    }

    @Bean
    JWKSource<SecurityContext> keys() throws Exception {
        var generator = KeyPairGenerator.getInstance("RSA");
        generator.initialize(2048);
        var pair = generator.generateKeyPair();
        var key = new RSAKey.Builder((RSAPublicKey) pair.getPublic())
                .privateKey((RSAPrivateKey) pair.getPrivate())
                .keyID("1")
                .build();
        return new ImmutableJWKSet<>(new JWKSet(key));
    }
}
